// One day of the chart's table; its button filters by that day.
import { formatCount, formatCredits } from "@/text/credits";
import { formatLongDay } from "@/text/time";

import type { Day } from "../period";

interface Props {
  day: Day;
  isChosen: boolean;
  onPick: (day: string) => void;
}

export function DayRow({ day, isChosen, onPick }: Props) {
  return (
    <tr>
      <th scope="row">
        <button type="button" aria-pressed={isChosen} onClick={() => onPick(day.day)}>
          {formatLongDay(day.day)}
        </button>
      </th>
      <td>{formatCount(day.messages)}</td>
      <td>{formatCredits(day.hundredths)}</td>
    </tr>
  );
}
