// Timestamps of the service, as the pages of events and vehicles write them.
import { formatInstant, readInstant } from "./time";

/** `29-04-2024 03:25`, in UTC; the text itself if it is no timestamp. */
export function formatStamp(text: string): string {
  const instant = readInstant(text);
  return instant === null ? text : formatInstant(instant);
}
