// The two scales that bars are drawn with. Recharts takes in all of d3-scale by name,
// colours, logarithms and calendars too: 17 KB that no bar asks for. The build gives it
// this module instead (`vite.config.ts`).

type Band = (category: unknown) => number | undefined;
type Linear = (value: number) => number;

/** What Recharts calls on a scale; setting returns the scale itself. */
interface Settings<Scale> {
  domain(): readonly unknown[];
  domain(values: readonly unknown[]): Scale;
  range(): readonly number[];
  range(values: readonly number[]): Scale;
}

/** Categories side by side, in equal bands without gaps. */
export function scaleBand() {
  const places = new Map<unknown, number>();
  const bandwidth = () => {
    const [start = 0, end = 1] = scale.range();
    return Math.abs(end - start) / Math.max(1, places.size);
  };
  const map: Band = (category) => {
    const at = places.get(category);
    return at === undefined ? undefined : Math.min(...scale.range()) + at * bandwidth();
  };
  const scale = withSettings(map, [], (categories) => {
    places.clear();
    for (const category of new Set(categories)) places.set(category, places.size);
    return [...places.keys()];
  });
  return Object.assign(scale, { bandwidth });
}

/** Numbers in proportion; all in the middle where the domain is a single number. */
export function scaleLinear() {
  const map: Linear = (value) => {
    const [low = 0, high = 1] = scale.domain().map(Number);
    const [start = 0, end = 1] = scale.range();
    const share = high === low ? 0.5 : (value - low) / (high - low);
    return start + share * (end - start);
  };
  const scale = withSettings(map, [0, 1], (ends) => [...ends]);
  return scale;
}

/** Recharts' brush and line charts name it; this page draws neither. */
export const scalePoint = scaleBand;

function withSettings<Map extends Band | Linear>(
  map: Map,
  domain: readonly unknown[],
  toDomain: (values: readonly unknown[]) => readonly unknown[],
): Map & Settings<Map> {
  let range: readonly number[] = [0, 1];
  const settings = {
    domain(values?: readonly unknown[]) {
      if (!values) return domain;
      domain = toDomain(values);
      return scale;
    },
    range(values?: readonly number[]) {
      if (!values) return range;
      range = [...values];
      return scale;
    },
  };
  const scale = Object.assign(map, settings as Settings<Map>);
  return scale;
}
