// Choosing a range of days in the chart: by dragging, clicking, or with arrow keys.
import { useState, type KeyboardEvent, type PointerEvent } from "react";

import type { DayRange } from "../period";

interface Options {
  buckets: readonly DayRange[];
  chosen: DayRange | null;
  /** The number of the bar under a pointer. */
  bucketAt: (event: PointerEvent<SVGSVGElement>) => number;
  onChoose: (range: DayRange | null) => void;
}

/** Where a drag began, and where it is. */
interface Drag {
  start: number;
  end: number;
}

export function useDayRange({ buckets, chosen, bucketAt, onChoose }: Options) {
  const [drag, setDrag] = useState<Drag | null>(null);
  const [anchor, setAnchor] = useState(-1);
  const rangeOf = ({ start, end }: Drag): DayRange | null => {
    const [first, last] = [
      buckets[Math.min(start, end)],
      buckets[Math.max(start, end)],
    ];
    return first && last ? { from: first.from, to: last.to } : null;
  };

  const choose = (range: DayRange | null) => {
    const isSame = range?.from === chosen?.from && range?.to === chosen?.to;
    onChoose(isSame ? null : range);
  };

  const pointer = {
    onPointerDown(event: PointerEvent<SVGSVGElement>) {
      if (event.button !== 0 || buckets.length === 0) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      const at = bucketAt(event);
      setDrag({ start: at, end: at });
    },
    onPointerMove(event: PointerEvent<SVGSVGElement>) {
      const end = bucketAt(event);
      if (drag && end !== drag.end) setDrag({ ...drag, end });
    },
    onPointerUp(event: PointerEvent<SVGSVGElement>) {
      if (!drag) return;
      setDrag(null);
      choose(rangeOf({ ...drag, end: bucketAt(event) }));
    },
    // A touch that scrolls the page chooses nothing.
    onPointerCancel: () => setDrag(null),
  };

  const [first, last] = placeOf(buckets, chosen);
  const onKeyDown = (event: KeyboardEvent) => {
    // Shift moves one end of the range; the anchor is the other one.
    const fixed = anchor === last ? last : first;
    const moving = fixed === first ? last : first;
    const next = nextPlace(event.key, moving, buckets.length - 1);
    if (event.key === "Escape") onChoose(null);
    else if (next !== null) {
      const start = event.shiftKey && fixed >= 0 ? fixed : next;
      setAnchor(start);
      onChoose(rangeOf({ start, end: next }));
    } else return;
    event.preventDefault();
  };
  return { shown: drag ? rangeOf(drag) : chosen, pointer, onKeyDown };
}

/** Return the numbers of the first and the last bar of a range; -1 for none. */
export function placeOf(
  buckets: readonly DayRange[],
  range: DayRange | null,
): [number, number] {
  if (!range) return [-1, -1];
  return [
    buckets.findIndex(({ to }) => to >= range.from),
    buckets.findLastIndex(({ from }) => from <= range.to),
  ];
}

/** Return the bar that a key leads to; the newest one where none is chosen. */
function nextPlace(key: string, current: number, end: number): number | null {
  if (key === "Home") return 0;
  if (key === "End") return end;
  const step = STEP_OF_KEY.get(key);
  if (step === undefined || end < 0) return null;
  return current < 0 ? end : Math.max(0, Math.min(end, current + step));
}

const STEP_OF_KEY = new Map([
  ["ArrowLeft", -1],
  ["ArrowDown", -1],
  ["ArrowRight", 1],
  ["ArrowUp", 1],
  ["PageDown", -7],
  ["PageUp", 7],
]);
