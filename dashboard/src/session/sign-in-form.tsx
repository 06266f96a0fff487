// The form that exchanges a key for a session.
import { useId, useState, type SyntheticEvent } from "react";

import { ApiError } from "@/api/client";
import { ProblemNotice } from "@/components/problem-notice";

import { useSignIn, type SignedOut } from "./session";

const REASONS: Record<SignedOut, string | null> = {
  never: null,
  left: "You are signed out.",
  ended:
    "Your session has ended: its time is over, or its key was revoked. Sign in again.",
  "not-kept":
    "The key is valid, but the browser did not keep the sign-in. " +
    "If another site shows this page in a frame, open it in a tab of its own. " +
    "Otherwise permit cookies for this address.",
  "no-keys": null,
};

interface Props {
  why: SignedOut;
  /** The scope that the key needs for what follows. */
  scope: string;
}

export function SignInForm({ why, scope }: Props) {
  const [key, setKey] = useState("");
  const signIn = useSignIn();
  const id = useId();
  const isWrong = isWrongKey(signIn.error);
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    const sent = key.trim();
    if (sent === "" || signIn.isPending) return;
    signIn.mutate(sent, { onSuccess: () => setKey("") });
  };
  return (
    <section className="card sign-in" aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>Sign in with a key</h2>
      {REASONS[why] !== null && (
        <p className="notice" role="status">
          {REASONS[why]}
        </p>
      )}
      <p id={`${id}-hint`}>
        You need a key with the scope <code>{scope}</code>. The key is sent once to this
        service; the browser then keeps a session instead of it.
      </p>
      <form onSubmit={submit}>
        <label htmlFor={`${id}-key`}>Key</label>
        <input
          id={`${id}-key`}
          type="password"
          autoComplete="off"
          spellCheck={false}
          value={key}
          maxLength={200}
          aria-describedby={`${id}-hint ${id}-error`}
          aria-invalid={isWrong}
          onChange={(event) => setKey(event.target.value)}
        />
        <button
          type="submit"
          className="button-primary"
          disabled={key.trim() === "" || signIn.isPending}
        >
          {signIn.isPending ? "Signing in…" : "Sign in"}
        </button>
        <p id={`${id}-error`} className="field-error" role="alert">
          {isWrong &&
            "This key is not valid. Check that you have copied all of it; it may also have been revoked."}
        </p>
      </form>
      {signIn.error && !isWrong && <ProblemNotice error={signIn.error} />}
    </section>
  );
}

function isWrongKey(error: Error | null): boolean {
  return error instanceof ApiError && error.problem.code === "unauthorized";
}
