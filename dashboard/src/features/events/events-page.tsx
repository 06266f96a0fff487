// The Events page: failed events, sessions, counts and keys.
import { Page } from "@/components/page";

export function EventsPage() {
  return (
    <Page title="Events">
      <p className="card empty">Nothing is shown yet.</p>
    </Page>
  );
}
