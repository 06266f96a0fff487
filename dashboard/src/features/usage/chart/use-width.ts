// The width to draw in: that of an element, and that of paper.
import { useLayoutEffect, useState, type RefObject } from "react";

/** Between the margins of A4 in CSS pixels. */
export const PAPER_WIDTH = 700;
const FIRST_WIDTH = 800;

/** Return the width of an element, in whole CSS pixels. */
export function useWidth(element: RefObject<HTMLElement | null>): number {
  const [width, setWidth] = useState(FIRST_WIDTH);
  useLayoutEffect(() => {
    const shown = element.current;
    if (!shown) return;
    const measure = () => setWidth((before) => shown.clientWidth || before);
    // Before the first paint, which must not show another width.
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(shown);
    return () => observer.disconnect();
  }, [element]);
  return width;
}
