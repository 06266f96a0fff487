// Catches what a component throws, so that a mistake of ours leaves no blank page.
import { Component, type ReactNode } from "react";

import { ProblemCard } from "./problem-card";

interface Props {
  children: ReactNode;
}

interface State {
  error: Error | null;
}

export class ErrorBoundary extends Component<Props, State> {
  override state: State = { error: null };

  static getDerivedStateFromError(error: Error): State {
    return { error };
  }

  override render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    return <ProblemCard error={error} onRetry={() => this.setState({ error: null })} />;
  }
}
