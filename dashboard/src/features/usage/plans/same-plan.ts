// Whether what an address calls a plan is this one.

/** `text-rules` is `text-rules/1` too: a version may be left out. */
export function isSamePlan(plan: string, asked: string): boolean {
  return plan === asked || plan.split("/")[0] === asked;
}
