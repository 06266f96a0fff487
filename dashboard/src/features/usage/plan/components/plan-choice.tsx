// One plan: its name, its total, and what it would cost more or less.
import { formatCredits, formatDifference } from "@/text/credits";
import { planName } from "@/text/plans";

import { usePlanTotal } from "../api/use-plan-total";

interface Props {
  plan: string;
  /** Of the group of radio buttons. */
  name: string;
  isChosen: boolean;
  /** The total under the plan that is shown; null while nobody knows it. */
  shownHundredths: number | null;
  onChoose: () => void;
}

export function PlanChoice(props: Props) {
  const { plan, name, isChosen, shownHundredths, onChoose } = props;
  const total = usePlanTotal(plan);
  const hundredths = total.data?.hundredths ?? null;
  return (
    <label className="plan">
      <input type="radio" name={name} checked={isChosen} onChange={onChoose} />
      <span className="plan-name">{planName(plan)}</span>{" "}
      <span className="plan-total">
        {hundredths !== null
          ? `${formatCredits(hundredths)} credits`
          : total.isError
            ? "Total not available"
            : "…"}
      </span>{" "}
      {!isChosen && hundredths !== null && shownHundredths !== null && (
        <span className="plan-difference">
          {formatDifference(hundredths - shownHundredths)} credits
        </span>
      )}
    </label>
  );
}
