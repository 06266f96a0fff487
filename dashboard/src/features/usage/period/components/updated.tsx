// `Updated 12 seconds ago`.
import { Age } from "./age";

interface Props {
  /** When the figures were fetched, in milliseconds since 1970. */
  asOf: number;
}

export function Updated({ asOf }: Props) {
  return (
    <span className="updated">
      Updated <Age asOf={asOf} />
    </span>
  );
}
