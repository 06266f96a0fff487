// The steps of a price in their order, each with the price so far.
import { formatCredits, formatDifference } from "@/text/credits";

import type { Step } from "../api/use-explanation";
import { nameStep } from "../step-names";

interface Props {
  steps: readonly Step[];
}

export function StepsTable({ steps }: Props) {
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
            <th scope="row">{nameStep(name)}</th>
            <td>{hundredths === 0 ? "did not apply" : formatDifference(hundredths)}</td>
            <td>{formatCredits(total)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
