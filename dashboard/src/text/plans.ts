// Plans as people call them.

/** `text-rules/1` as `Text rules`; the version only where it is not the first. */
export function planName(plan: string): string {
  const [name = "", version] = plan.split("/");
  const words = name.replaceAll("-", " ");
  const title = words.charAt(0).toUpperCase() + words.slice(1);
  return version === undefined || version === "1" ? title : `${title} (${version})`;
}
