// Who is signed in, and the way out.
import { formatInstant } from "@/text/time";

import { useSession, useSignOut } from "./session";

export function SessionFacts() {
  const { data } = useSession();
  const signOut = useSignOut();
  const session = data?.session;
  if (!session) return null;
  return (
    <>
      <span>
        Signed in as <b>{session.name}</b> until {formatInstant(session.expiresAt)} UTC
      </span>
      <button
        type="button"
        className="button-small"
        disabled={signOut.isPending}
        onClick={() => signOut.mutate()}
      >
        Sign out
      </button>
      {signOut.error && <span role="alert">Signing out failed. Try again.</span>}
    </>
  );
}
