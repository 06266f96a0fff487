// Buttons to the pages before and after.
interface Props {
  /** What the list has, such as "failed events". */
  label: string;
  /** What this page shows, such as "1 to 25". */
  shown: string;
  onPrevious: (() => void) | null;
  onNext: (() => void) | null;
}

export function Pager({ label, shown, onPrevious, onNext }: Props) {
  if (!onPrevious && !onNext) return null;
  return (
    <nav className="pager" aria-label={`Pages of ${label}`}>
      <button type="button" disabled={!onPrevious} onClick={() => onPrevious?.()}>
        Previous
      </button>
      <span role="status">{shown}</span>
      <button type="button" disabled={!onNext} onClick={() => onNext?.()}>
        Next
      </button>
    </nav>
  );
}
