// The steps of a price in their order, each with the price so far.
import {
  formatCount,
  formatCredits,
  formatDifference,
  toHundredths,
} from "@/text/credits";

import type { Step } from "../api/use-explanation";
import { usePlans, type PlanStep } from "../api/use-plans";
import { nameStep } from "./step-names";

interface Props {
  /** The plan that priced the message, with its version. */
  plan: string;
  steps: readonly Step[];
}

export function StepsTable({ plan, steps }: Props) {
  const { data: plans } = usePlans();
  const rules = plans?.find((each) => each.plan === plan)?.steps;
  const ruleOf = (name: string) => rules?.find(({ step }) => step === name);
  return (
    <table className="steps">
      <caption className="visually-hidden">
        How the price was made, step by step
      </caption>
      <thead>
        <tr>
          <th scope="col">Step</th>
          <th scope="col">Credits</th>
          <th scope="col">Price so far</th>
        </tr>
      </thead>
      <tbody>
        {steps.map(({ name, hundredths, total }, at) => (
          <tr key={at} className={hundredths === 0 ? "step-idle" : undefined}>
            <th scope="row">
              {nameStep(name)}
              <Calculation hundredths={hundredths} rule={ruleOf(name)} />
            </th>
            <td>{hundredths === 0 ? "did not apply" : formatDifference(hundredths)}</td>
            <td>{formatCredits(total)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

interface CalculationProps {
  hundredths: number;
  rule: PlanStep | undefined;
}

/** `45 × 0.05`, if the plan has a rate for each character, word point, and so on. */
function Calculation({ hundredths, rule }: CalculationProps) {
  const rate = toHundredths(rule?.rate);
  if (!rate || rate < 0 || hundredths <= 0 || hundredths % rate) return null;
  return (
    <>
      {" "}
      <span className="step-calculation">
        {formatCount(hundredths / rate)} × {formatCredits(rate)}
      </span>
    </>
  );
}
