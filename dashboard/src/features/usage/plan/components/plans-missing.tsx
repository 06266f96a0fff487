// The plans could not be had; the page goes on with the one it has.
interface Props {
  onRetry: () => void;
}

export function PlansMissing({ onRetry }: Props) {
  return (
    <p className="notice plans-missing" role="status">
      The other pricing plans could not be loaded.{" "}
      <button type="button" onClick={onRetry}>
        Try again
      </button>
    </p>
  );
}
