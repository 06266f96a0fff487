// One way to ask the service: JSON in, a problem document out of every failure.
import { csrfToken } from "./csrf";

const TIMEOUT_MS = 30_000;
/** Methods without effects, which need no token (RFC 9110, section 9.2.1). */
const SAFE_METHODS = ["GET", "HEAD"];

/** What a person needs to know of an error, and what support asks for. */
export interface Problem {
  title: string;
  detail: string;
  code: string;
  requestId: string | null;
}

/** The service has refused, could not be reached, or answered what nobody can read. */
export class ApiError extends Error {
  readonly problem: Problem;
  /** The HTTP status; 0 where no answer came. */
  readonly status: number;
  /** The time of `Retry-After`, which may be hours. */
  readonly retryAfterMs: number | null;

  constructor(problem: Problem, status: number, retryAfterMs: number | null = null) {
    super(problem.title);
    this.name = "ApiError";
    this.problem = problem;
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }

  /** Whether the same request may succeed a little later. */
  get isTemporary(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

/** A JSON body, not yet looked at, and the headers it came with. */
export interface JsonAnswer {
  body: unknown;
  headers: Headers;
}

export type Parameters = Record<string, string | null>;

/** A request, apart from its path. */
export interface RequestOptions {
  method?: "GET" | "POST" | "DELETE";
  /** Parameters of the query; those without a value are left out. */
  parameters?: Parameters;
  /** A value to send as JSON. */
  body?: unknown;
  signal: AbortSignal;
  timeoutMs?: number;
  /** Parses JSON, at once or later; `JSON.parse` by default. */
  parse?: (text: string) => unknown;
}

/**
 * Asks `path` with those parameters that have a value.
 *
 * The browser's cache is asked to revalidate, so that an unchanged answer costs a 304.
 * Throws `ApiError`; an abort by `signal` stays what it is.
 */
export function getJson(
  path: string,
  parameters: Parameters,
  signal: AbortSignal,
): Promise<JsonAnswer> {
  return request(path, { parameters, signal });
}

/**
 * Sends a request, with the token of the session where it changes data.
 *
 * Throws `ApiError`; an abort by `signal` stays what it is.
 */
export async function request(
  path: string,
  options: RequestOptions,
): Promise<JsonAnswer> {
  const response = await send(path + queryOf(options.parameters ?? {}), options);
  const body = await readJson(response, options);
  if (!response.ok) {
    throw new ApiError(
      problemOf(response, body),
      response.status,
      retryAfter(response),
    );
  }
  return { body, headers: response.headers };
}

/** The answer is JSON, but not what this page understands. */
export function unreadable(answer: JsonAnswer, detail: string): ApiError {
  const requestId = answer.headers.get("X-Request-ID");
  const title = "The answer could not be read";
  return new ApiError({ title, detail, code: "unreadable_answer", requestId }, 422);
}

async function send(url: string, options: RequestOptions): Promise<Response> {
  const { method = "GET", body, signal, timeoutMs = TIMEOUT_MS } = options;
  const headers = new Headers({ Accept: "application/json" });
  if (body !== undefined) headers.set("Content-Type", "application/json");
  const token = csrfToken();
  if (token !== null && !SAFE_METHODS.includes(method)) {
    headers.set("X-CSRF-Token", token);
  }
  try {
    return await fetch(url, {
      method,
      cache: "no-cache",
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    });
  } catch (error) {
    throw unreachable(error, signal);
  }
}

async function readJson(response: Response, options: RequestOptions): Promise<unknown> {
  const { signal, parse = JSON.parse } = options;
  let text: string;
  try {
    text = await response.text();
  } catch (error) {
    throw unreachable(error, signal);
  }
  try {
    return await parse(text);
  } catch {
    return null;
  }
}

function unreachable(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return error;
  const isLate = error instanceof DOMException && error.name === "TimeoutError";
  const problem: Problem = {
    title: isLate ? "The service takes too long" : "The service cannot be reached",
    detail: "Check your connection, or try again in a moment.",
    code: isLate ? "timeout" : "unreachable",
    requestId: null,
  };
  return new ApiError(problem, 0);
}

function problemOf(response: Response, body: unknown): Problem {
  const said = isRecord(body) ? body : {};
  return {
    title: textOr(said.title, "The service could not answer"),
    detail: textOr(said.detail, `It answered with status ${response.status}.`),
    code: textOr(said.code, `http_${response.status}`),
    requestId: response.headers.get("X-Request-ID"),
  };
}

function retryAfter(response: Response): number | null {
  const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
  if (!Number.isFinite(seconds) || seconds < 0) return null;
  return seconds * 1000;
}

function queryOf(parameters: Parameters): string {
  const given = Object.entries(parameters).filter(
    (entry): entry is [string, string] => entry[1] !== null,
  );
  return given.length ? `?${new URLSearchParams(given).toString()}` : "";
}

function textOr(value: unknown, fallback: string): string {
  return typeof value === "string" && value !== "" ? value : fallback;
}

/** Whether a value is an object with names, so that its fields can be looked at. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
