// A VIN whose doubtful or wrong characters are marked.
interface Props {
  vin: string;
  /** Positions from 0. */
  marked: readonly number[];
}

export function MarkedVin({ vin, marked }: Props) {
  if (marked.length === 0) return <code className="vin">{vin}</code>;
  const positions = marked.map((at) => at + 1).join(", ");
  return (
    <code className="vin">
      {Array.from(vin).map((character, at) =>
        marked.includes(at) ? (
          <mark key={at}>{character}</mark>
        ) : (
          <span key={at}>{character}</span>
        ),
      )}
      <span className="visually-hidden"> (doubtful: position {positions})</span>
    </code>
  );
}
