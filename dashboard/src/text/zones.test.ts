import { expect, test } from "vitest";

import { isZone, wallClock } from "./zones";

test.each([
  ["2024-03-31T00:59:59.999Z", "2024-03-31T00:59:59.999Z"],
  ["2024-03-31T01:00:00.000Z", "2024-03-31T02:00:00.000Z"],
  ["2024-10-27T00:59:00.000Z", "2024-10-27T01:59:00.000Z"],
  ["2024-10-27T01:00:00.000Z", "2024-10-27T01:00:00.000Z"],
])("London's clock shows at %s %s", (instant, clock) => {
  const shown = wallClock("Europe/London")(Date.parse(instant));
  expect(new Date(shown).toISOString()).toBe(clock);
});

test("zones differ from UTC by quarters of an hour too", () => {
  const shown = wallClock("Asia/Kathmandu")(Date.parse("2024-05-01T18:15:00Z"));
  expect(new Date(shown).toISOString()).toBe("2024-05-02T00:00:00.000Z");
});

test.each(["UTC", "Europe/London", "America/Argentina/Ushuaia", "Etc/GMT+5"])(
  "%s is a zone",
  (name) => expect(isZone(name)).toBe(true),
);

test.each(["", "Mars/Olympus", "../../x", "+01:00", "x".repeat(100)])(
  "%s is no zone",
  (name) => expect(isZone(name)).toBe(false),
);
