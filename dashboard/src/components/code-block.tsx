// Text of a program, which scrolls in its own box.
import type { ReactNode } from "react";

interface Props {
  label: string;
  children: ReactNode;
}

export function CodeBlock({ label, children }: Props) {
  return (
    <pre
      role="region"
      aria-label={label}
      // Who has only a keyboard scrolls what has the focus.
      // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
      tabIndex={0}
    >
      {children}
    </pre>
  );
}
