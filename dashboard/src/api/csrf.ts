// The token of the session, which requests that change data send in a header.
//
// It lives in the memory of this page only. The session itself is a cookie that no
// script can read.
let current: string | null = null;

export function csrfToken(): string | null {
  return current;
}

export function setCsrfToken(token: string | null): void {
  current = token;
}
