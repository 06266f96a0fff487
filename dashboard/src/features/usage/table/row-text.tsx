// A text that others wrote: any length, any direction. What does not fit is clamped, and
// is there as a whole where the pointer rests and in the open row.

interface Props {
  text: string;
}

/** A text this short fits everywhere. */
const SHORT = 24;

export function RowText({ text }: Props) {
  // Each clamped box costs the browser a clip of its own, at every paint.
  if (text.length <= SHORT) return <bdi>{text}</bdi>;
  return (
    <bdi className="row-text" title={text}>
      {text}
    </bdi>
  );
}
