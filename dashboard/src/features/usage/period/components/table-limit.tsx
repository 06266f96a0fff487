// Says so where there are more rows than a browser can scroll through.
import { formatCount } from "@/text/credits";

/** At twice a row's usual height they come near to the highest page that browsers have. */
export const MOST_ROWS = 250_000;

interface Props {
  count: number;
}

export function TableLimit({ count }: Props) {
  if (count <= MOST_ROWS) return null;
  return (
    <p className="notice" role="status">
      Only the first {formatCount(MOST_ROWS)} of {formatCount(count)} messages are
      listed here. The total and the export have all of them; filters show fewer.
    </p>
  );
}
