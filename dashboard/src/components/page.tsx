// The frame of each page: its title, facts beside the title, and its content.
import type { ReactNode } from "react";

import { ErrorBoundary } from "./error-boundary";

interface Props {
  title: string;
  /** Short texts beside the title, such as the age of the figures. */
  facts?: ReactNode;
  children: ReactNode;
}

export function Page({ title, facts, children }: Props) {
  return (
    <>
      <header className="page-header">
        <h1>{title}</h1>
        <p className="page-facts">{facts}</p>
      </header>
      <main id="content" tabIndex={-1}>
        <ErrorBoundary>{children}</ErrorBoundary>
      </main>
    </>
  );
}
