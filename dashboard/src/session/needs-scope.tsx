// Shows its content to a session that has a scope, and else says what is missing.
import type { ReactNode } from "react";

import { ProblemNotice } from "@/components/problem-notice";

import { permits, useSession, type Session } from "./session";
import { SignInForm } from "./sign-in-form";

interface Props {
  scope: string;
  children: (session: Session) => ReactNode;
}

export function NeedsScope({ scope, children }: Props) {
  const { data, error, refetch } = useSession();
  if (!data) {
    return error ? (
      <ProblemNotice error={error} onRetry={() => void refetch()} />
    ) : (
      <p className="empty" role="status">
        Loading…
      </p>
    );
  }
  if (data.why === "no-keys") {
    return (
      <p className="card empty">
        This service has no keys, because it has no database. Its operator can enable{" "}
        <code>events</code> or <code>vehicles</code>.
      </p>
    );
  }
  if (!data.session) return <SignInForm why={data.why} scope={scope} />;
  if (!permits(data.session, scope)) {
    return (
      <div className="card">
        <h2>Your key does not permit this</h2>
        <p>
          The key of <b>{data.session.name}</b> lacks the scope <code>{scope}</code>.
          Sign out, and sign in with a key that has it. Somebody with a key of the scope{" "}
          <code>admin</code> can make one.
        </p>
      </div>
    );
  }
  return children(data.session);
}
