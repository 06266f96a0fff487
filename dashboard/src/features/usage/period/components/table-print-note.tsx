// On paper: that a long table is not printed as a whole.
import { formatCount } from "@/text/credits";

interface Props {
  shown: number;
  count: number;
}

export function TablePrintNote({ shown, count }: Props) {
  if (shown === count) return null;
  return (
    <p className="table-print-note">
      Only {formatCount(shown)} of {formatCount(count)} messages are printed here;
      “Export CSV” saves all of them.
    </p>
  );
}
