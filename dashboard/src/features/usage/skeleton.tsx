// Empty boxes of the size of the figures, so that nothing moves when they come.

interface Props {
  isRetrying: boolean;
}

export function Skeleton({ isRetrying }: Props) {
  return (
    <div aria-busy="true">
      <p role="status" className={isRetrying ? "notice" : "visually-hidden"}>
        {isRetrying ? "This takes longer than usual. Still trying…" : "Loading usage…"}
      </p>
      <div className="skeleton" aria-hidden="true">
        <div className="skeleton-filters" />
        <div className="glance">
          <div className="skeleton-card" />
          <div className="skeleton-card" />
        </div>
        <div className="skeleton-card" />
      </div>
    </div>
  );
}
