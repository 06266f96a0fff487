// `12 seconds ago`, kept true while it is looked at.
import { formatAge } from "@/text/time";

import { useAge } from "../use-age";

interface Props {
  /** In milliseconds since 1970. */
  asOf: number;
}

export function Age({ asOf }: Props) {
  const age = useAge(asOf);
  return <time dateTime={new Date(asOf).toISOString()}>{formatAge(age)}</time>;
}
