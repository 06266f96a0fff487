// Which day: bars for the eye, a slider for keys, a table for everyone; all choose days.
import { memo, useMemo, useRef, useState, type PointerEvent } from "react";

import { usePrinting } from "@/components/use-printing";
import { countOf, formatCount } from "@/text/credits";
import { formatLongDay } from "@/text/time";

import type { DayRange } from "../period";
import { STEPS, type ChartStep } from "../view/view";
import { Bars } from "./bars";
import type { Bucket } from "./buckets";
import { DayTable } from "./day-table";
import { describeBucket, describeChart } from "./describe-chart";
import { capacityOf, layOut } from "./geometry";
import { pageAt, pageWith } from "./pages";
import { placeOf, useDayRange } from "./use-day-range";
import { PAPER_WIDTH, useWidth } from "./use-width";

interface Props {
  buckets: readonly Bucket[];
  step: ChartStep;
  zone: string;
  chosen: DayRange | null;
  onChoose: (range: DayRange | null) => void;
  onStep: (step: ChartStep) => void;
}

/** The page of bars that the reader turned to; days chosen later turn to themselves. */
interface Turned {
  page: number;
  chosen: DayRange | null;
}

const MOST_ON_PAPER = 366;

export const UsageChart = memo(function UsageChart(props: Props) {
  const { buckets, step, zone, chosen, onChoose, onStep } = props;
  const box = useRef<HTMLDivElement>(null);
  const drawing = useRef<SVGSVGElement>(null);
  const isPrinting = usePrinting();
  const measured = useWidth(box);
  const width = isPrinting ? PAPER_WIDTH : measured;
  const size = isPrinting ? MOST_ON_PAPER : capacityOf(width);
  const [turned, setTurned] = useState<Turned | null>(null);
  const wanted =
    turned?.chosen === chosen
      ? turned.page
      : pageWith(buckets, chosen?.to ?? null, size);
  const page = useMemo(() => pageAt(buckets, wanted, size), [buckets, wanted, size]);
  const [start, count] = [page.buckets[0]?.from, page.buckets.length];
  const geometry = useMemo(() => layOut(page.buckets, width), [page, width]);
  const description = useMemo(() => describeChart(page.buckets, step), [page, step]);
  const [pointed, setPointed] = useState<number | null>(null);
  const bucketAt = ({ clientX }: PointerEvent) => {
    const { left, width: shown } = drawing.current?.getBoundingClientRect() ?? {
      left: 0,
      width: 1,
    };
    const x = ((clientX - left) / shown) * width - geometry.left;
    return Math.max(0, Math.min(count - 1, Math.floor(x / geometry.columnWidth)));
  };
  const choose = (range: DayRange | null) => {
    onChoose(range);
    // A choice among the shown bars turns no page.
    setTurned({ page: wanted, chosen: range });
  };
  const range = useDayRange({
    buckets: page.buckets,
    chosen,
    bucketAt,
    onChoose: choose,
  });
  const [first, last] = placeOf(page.buckets, range.shown);
  const current = join(page.buckets.slice(Math.max(0, first), last + 1), step);
  const read = (pointed === null ? undefined : page.buckets[pointed]) ?? current;
  return (
    <section className="card chart" aria-labelledby="chart-title">
      <div className="section-head">
        <h2 id="chart-title">Which day</h2>
        <StepSwitch step={step} onStep={onStep} />
      </div>
      {buckets.length === 0 ? (
        <p className="empty">No message has a date that could be read.</p>
      ) : (
        <>
          <p className="chart-readout" aria-hidden="true">
            {read
              ? describeBucket(read, step)
              : "Click a bar to see its messages; drag to choose several."}
          </p>
          <div
            ref={box}
            className="chart-plot"
            role="slider"
            tabIndex={0}
            aria-label={description}
            aria-valuemin={0}
            aria-valuemax={count - 1}
            aria-valuenow={current ? last : count - 1}
            aria-valuetext={current ? describeBucket(current, step) : "All days"}
            onKeyDown={range.onKeyDown}
          >
            <Bars
              ref={drawing}
              buckets={page.buckets}
              geometry={geometry}
              chosen={range.shown}
              {...range.pointer}
              onPointerMove={(event) => {
                setPointed(bucketAt(event));
                range.pointer.onPointerMove(event);
              }}
              onPointerLeave={() => setPointed(null)}
            />
          </div>
          {(page.hasEarlier || page.hasLater) && (
            <p className="chart-pages">
              <button
                type="button"
                disabled={!page.hasEarlier}
                onClick={() => setTurned({ page: wanted + 1, chosen })}
              >
                Earlier days
              </button>
              <span role="status">
                {formatLongDay(start ?? "")} to{" "}
                {formatLongDay(page.buckets.at(-1)?.to ?? "")}, {formatCount(count)} of{" "}
                {countOf(buckets.length, step === "week" ? "week" : "day")}
              </span>
              <button
                type="button"
                disabled={!page.hasLater}
                onClick={() => setTurned({ page: wanted - 1, chosen })}
              >
                Later days
              </button>
            </p>
          )}
          <DayTable
            buckets={page.buckets}
            caption={`${TITLES[step]} (${zone})`}
            chosen={chosen}
            onChoose={choose}
          />
        </>
      )}
    </section>
  );
});

/** Return several bars as one; of bars that add up, the last one. */
function join(buckets: readonly Bucket[], step: ChartStep): Bucket | undefined {
  const [first, last] = [buckets[0], buckets.at(-1)];
  if (!first || !last || step === "total") return last;
  return buckets.reduce((sum, { hundredths, messages }) => ({
    ...sum,
    to: last.to,
    hundredths: sum.hundredths + hundredths,
    messages: sum.messages + messages,
  }));
}

const TITLES: Record<ChartStep, string> = {
  day: "Credits per day",
  week: "Credits per week",
  total: "Credits up to each day",
};
const STEP_NAMES: Record<ChartStep, string> = {
  day: "By day",
  week: "By week",
  total: "Adding up",
};

function StepSwitch({ step, onStep }: Pick<Props, "step" | "onStep">) {
  return (
    <div className="step-switch" role="group" aria-label="Bars of the chart">
      {STEPS.map((each) => (
        <button
          key={each}
          type="button"
          aria-pressed={each === step}
          onClick={() => onStep(each)}
        >
          {STEP_NAMES[each]}
        </button>
      ))}
    </div>
  );
}
