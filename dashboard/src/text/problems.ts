// The codes of problems in words for people: what happened, and what they can do.
//
// docs/codes.md explains the codes to programmers. A code without words here shows the
// title and the detail of the service.

export interface ProblemWords {
  /** A sentence without its full stop. */
  title: string;
  /** One or two sentences. */
  advice: string;
}

const LATER = "Nothing was changed. Try again in a moment.";
const OPERATOR = "If it stays so, tell the operator of this service.";

const WORDS = new Map<string, ProblemWords>(
  Object.entries({
    messages_unavailable: {
      title: "The messages cannot be fetched at the moment",
      advice:
        "The source of the messages does not answer. Nothing is lost; the figures come back by themselves.",
    },
    report_unavailable: {
      title: "The price of a report cannot be fetched at the moment",
      advice:
        "Without it the figures would be wrong, so none are shown. They come back by themselves.",
    },
    deadline_exceeded: {
      title: "Fetching the messages takes too long",
      advice: "The source of the messages is slow at the moment.",
    },
    period_lost: {
      title: "The service starts again",
      advice: "The figures come back in a moment.",
    },
    unknown_plan: {
      title: "There is no such pricing plan",
      advice: "The address of this page names a plan that this service does not have.",
    },
    period_not_kept: {
      title: "This period is not kept",
      advice:
        "The address of this page names a period that this service does not have any more.",
    },
    texts_not_kept: {
      title: "This closed period has only its own prices",
      advice:
        "It cannot be compared with other plans, because the texts of its messages are not kept.",
    },
    usage_queries_full: {
      title: "Too many people look at usage at the moment",
      advice: "Try again in a moment.",
    },
    usage_query_timeout: {
      title: "The figures took too long",
      advice: "Try again, perhaps with fewer days.",
    },
    message_not_found: {
      title: "This message is not in the period any more",
      advice: "The period may have changed since the page was loaded.",
    },
    unreadable_answer: {
      title: "The answer could not be read",
      advice:
        "A proxy in front of the service may have answered. If it stays so, tell the operator of this service.",
    },
    backlog_full: { title: "The service has too many events to write", advice: LATER },
    event_too_large: {
      title: "An event is too large for the event queue",
      advice: "Send a smaller event.",
    },
    queue_unavailable: { title: "The event queue does not answer", advice: LATER },
    body_too_large: {
      title: "That is too much for one request",
      advice: "Send less at once.",
    },
    cross_origin: {
      title: "The service does not accept changes from this page",
      advice:
        "A proxy in front of the service changes its address. Tell the operator of this service.",
    },
    csrf_token_missing: {
      title: "You were signed in anew in another tab",
      advice: "Check who is signed in here now, and try again.",
    },
    cursor_expired: {
      title: "The list has changed meanwhile",
      advice: "Begin again at its first page.",
    },
    event_queries_full: {
      title: "Too many people query events at the moment",
      advice: "Try again in a moment.",
    },
    failed_event_not_found: {
      title: "This failed event is gone",
      advice: "It was replayed or discarded meanwhile, perhaps by somebody else.",
    },
    forbidden: {
      title: "Your key does not permit this",
      advice: "Sign in with a key that has the scope, or ask for one.",
    },
    internal_error: {
      title: "The service has made a mistake",
      advice: "Try again. If it stays so, report the request id.",
    },
    invalid_body: {
      title: "The service does not understand the request",
      advice: OPERATOR,
    },
    invalid_parameter: {
      title: "A filter has a value that the service does not accept",
      advice: "Correct the filter.",
    },
    invalid_vin: {
      title: "This is no VIN",
      advice: "A VIN has 17 letters and digits, and no I, O or Q.",
    },
    key_not_found: {
      title: "This key is revoked already",
      advice: "The list shows it after a moment.",
    },
    not_found: {
      title: "This service does not have that",
      advice: "The operator of this service has not enabled it.",
    },
    overloaded: { title: "The service is too busy", advice: "Try again in a moment." },
    query_timeout: {
      title: "The query took too long",
      advice: "Choose a shorter range of time, or a filter.",
    },
    rate_limited: {
      title: "You have sent too many requests",
      advice: "Wait a little, and try again.",
    },
    replay_refused: {
      title: "The event is still invalid",
      advice: "Correct the schema of its type, or discard the event.",
    },
    request_timeout: {
      title: "The service took too long",
      advice: "Try again, perhaps with less at once.",
    },
    session_not_found: {
      title: "There is no such session",
      advice: "Check its id, and the application.",
    },
    storage_unavailable: {
      title: "The database does not answer",
      advice: "What was sent may be stored all the same. Try again in a moment.",
    },
    timeout: {
      title: "The service takes too long",
      advice: "Try again in a moment.",
    },
    too_many_exports: {
      title: "Two exports are running already",
      advice: "Try again when one of them has ended.",
    },
    too_many_vins: {
      title: "These are too many VINs",
      advice: "Look up at most 500 at once.",
    },
    unauthorized: {
      title: "You are not signed in any more",
      advice: "Sign in again. Your session has ended, or its key was revoked.",
    },
    unreachable: {
      title: "The service cannot be reached",
      advice: "Check your connection, or try again in a moment.",
    },
    vehicle_lookups_full: {
      title: "Too many VINs wait for vPIC",
      advice: "Try again in a moment. Cached VINs are answered at once.",
    },
    vehicle_removal_timeout: {
      title: "The removal took too long",
      advice: "The VIN may be gone. Try again in a moment.",
    },
    vehicle_removals_full: {
      title: "Too many removals are in progress",
      advice: LATER,
    },
    vehicle_unavailable: {
      title: "vPIC does not answer at the moment",
      advice: "This VIN is not cached. Try again in a moment.",
    },
    vin_not_decoded: {
      title: "vPIC knows no vehicle with this VIN",
      advice: "Check the VIN for mistakes.",
    },
  }),
);

/** Return the words of a problem; those of the service for an unknown code. */
export function wordsOf(problem: {
  code: string;
  title: string;
  detail: string;
}): ProblemWords {
  return WORDS.get(problem.code) ?? { title: problem.title, advice: problem.detail };
}

/** Return the sentence of a code; the code itself if it has none. */
export function titleOf(code: string): string {
  return WORDS.get(code)?.title ?? code.replaceAll("_", " ");
}
