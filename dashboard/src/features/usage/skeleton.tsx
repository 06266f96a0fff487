// What stands where the figures will be, so that nothing jumps when they come.

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
        <div className="skeleton-tiles">
          {["total", "messages", "reports", "day", "updated"].map((tile) => (
            <div key={tile} className="skeleton-tile" />
          ))}
        </div>
        <div className="skeleton-chart" />
        <div className="skeleton-table" />
      </div>
    </div>
  );
}
