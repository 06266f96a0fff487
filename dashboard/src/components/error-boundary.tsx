// Catches what a component throws, so that a mistake of ours leaves no blank page.
import { Component, type ReactNode } from "react";

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
    // Without the words of the service's problems: this must not need another script.
    return (
      <div className="card problem" role="alert">
        <h2>This page has made a mistake</h2>
        <p>Try again; if it stays, tell support what you did.</p>
        <button
          type="button"
          className="button-primary"
          onClick={() => this.setState({ error: null })}
        >
          Try again
        </button>
      </div>
    );
  }
}
