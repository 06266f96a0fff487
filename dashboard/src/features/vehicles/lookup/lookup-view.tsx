// Look up VINs: those that are pasted, or the column of a file.
import { useId, useMemo, useState, type DragEvent, type SyntheticEvent } from "react";

import { ApiError } from "@/api/client";
import { ProblemNotice } from "@/components/problem-notice";
import { useSession } from "@/session/session";
import { SignInForm } from "@/session/sign-in-form";
import { countOf } from "@/text/credits";

import { isTemporary, useLookup, type LookedUp } from "./lookup";
import { FileError, readFile } from "./read-file";
import { Results } from "./results";
import { Waiting } from "./waiting";
import { MAX_VINS, readVins } from "./vin";
import { VinErrors } from "./vin-errors";

export function LookupView() {
  const [text, setText] = useState("");
  const [fileError, setFileError] = useState<string | null>(null);
  const [isOver, setIsOver] = useState(false);
  const [results, setResults] = useState<readonly LookedUp[]>([]);
  const lookup = useLookup();
  const id = useId();
  const { entries, duplicates } = useMemo(
    () => readVins(text.split(/\r\n|\r|\n/)),
    [text],
  );
  const valid = entries.filter((entry) => entry.error === null);
  const wrong = entries.filter((entry) => entry.error !== null);
  const isTooMany = valid.length > MAX_VINS;
  const isCancelled = lookup.error?.name === "AbortError";

  const lookUp = (vins: readonly string[], before: readonly LookedUp[]) =>
    lookup.mutate(vins, {
      onSuccess: (found) => setResults(merged(before, found)),
    });
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    if (valid.length === 0 || isTooMany || lookup.isPending) return;
    setResults([]);
    lookUp(
      valid.map((entry) => entry.vin),
      [],
    );
  };
  const replaceText = (next: string) => {
    setText(next);
    setFileError(null);
  };
  const open = async (file: File | undefined) => {
    if (!file) return;
    setFileError(null);
    try {
      setText((await readFile(file)).join("\n"));
    } catch (error) {
      const isKnown = error instanceof FileError;
      setFileError(isKnown ? error.message : "The file could not be read.");
    }
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setIsOver(false);
    void open(event.dataTransfer.files[0]);
  };
  const failed = results.filter(isTemporary);
  return (
    <>
      <section className="card" aria-labelledby={`${id}-title`}>
        <h2 id={`${id}-title`}>Look up VINs</h2>
        <form className="lookup-form" onSubmit={submit}>
          <label htmlFor={`${id}-vins`}>
            One VIN in each line, at most {MAX_VINS}. You can also drop a file here.
          </label>
          <textarea
            id={`${id}-vins`}
            className={isOver ? "is-drop-target" : undefined}
            rows={8}
            spellCheck={false}
            autoCapitalize="characters"
            autoComplete="off"
            value={text}
            aria-describedby={`${id}-status`}
            onChange={(event) => replaceText(event.target.value)}
            onDragOver={(event) => {
              event.preventDefault();
              setIsOver(true);
            }}
            onDragLeave={() => setIsOver(false)}
            onDrop={drop}
          />
          <p id={`${id}-status`} role="status" className="muted">
            {describe(valid.length, wrong.length, duplicates)}
          </p>
          {isTooMany && (
            <p className="notice" role="alert">
              These are {countOf(valid.length, "VIN")}, and at most {MAX_VINS} are
              looked up at once. Remove {valid.length - MAX_VINS}, or use the command{" "}
              <code>copilot-usage vehicles lookup FILE</code>.
            </p>
          )}
          {fileError !== null && (
            <p className="notice" role="alert">
              {fileError}
            </p>
          )}
          <div className="buttons">
            <button
              type="submit"
              className="button-primary"
              disabled={valid.length === 0 || isTooMany || lookup.isPending}
            >
              Look up
            </button>
            <label className="file-button">
              Choose a file
              <input
                type="file"
                className="visually-hidden"
                accept=".csv,.txt,.tsv,text/csv,text/plain"
                onChange={(event) => {
                  void open(event.target.files?.[0]);
                  // The same file may be chosen again.
                  event.target.value = "";
                }}
              />
            </label>
            {text !== "" && (
              <button type="button" onClick={() => replaceText("")}>
                Clear
              </button>
            )}
          </div>
        </form>
        <VinErrors entries={wrong} />
      </section>
      {lookup.isPending && (
        <Waiting
          key={lookup.submittedAt}
          count={lookup.variables.length}
          onCancel={lookup.cancel}
        />
      )}
      {isCancelled && (
        <p className="card" role="status">
          Cancelled. What vPIC has answered meanwhile is cached.
        </p>
      )}
      {lookup.error && !isCancelled && (
        <LookupProblem
          error={lookup.error}
          onRetry={() => lookUp(lookup.variables, results)}
        />
      )}
      {results.length > 0 && (
        <Results
          results={results}
          onRetry={
            failed.length > 0 && !lookup.isPending
              ? () =>
                  lookUp(
                    failed.map((item) => item.vin),
                    results,
                  )
              : null
          }
        />
      )}
    </>
  );
}

function LookupProblem({ error, onRetry }: { error: Error; onRetry: () => void }) {
  const { data } = useSession();
  const needsKey = error instanceof ApiError && error.problem.code === "unauthorized";
  if (needsKey && data && !data.session) {
    return <SignInForm why={data.why} scope="vehicles:read" />;
  }
  return <ProblemNotice error={error} onRetry={onRetry} />;
}

/** Return results of which those that were found later replace earlier ones. */
function merged(before: readonly LookedUp[], found: readonly LookedUp[]): LookedUp[] {
  if (before.length === 0) return [...found];
  const later = new Map(found.map((item) => [item.vin, item]));
  return before.map((item) => later.get(item.vin) ?? item);
}

function describe(valid: number, wrong: number, duplicates: number): string {
  const parts = [countOf(valid, "VIN")];
  if (wrong > 0) parts.push(`${countOf(wrong, "line")} without a VIN`);
  if (duplicates > 0) parts.push(`${countOf(duplicates, "repetition")} left out`);
  return parts.join(", ");
}
