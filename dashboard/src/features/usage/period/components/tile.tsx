// One figure with its name, and what adds to it in smaller letters.
import type { ReactNode } from "react";

interface Props {
  title: string;
  figure: ReactNode;
  more?: ReactNode;
}

export function Tile({ title, figure, more }: Props) {
  return (
    <div className="tile">
      <dt>{title}</dt>
      <dd className="tile-figure">{figure}</dd>
      {more !== undefined && <dd className="tile-more">{more}</dd>}
    </div>
  );
}
