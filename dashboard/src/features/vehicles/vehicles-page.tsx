// The Vehicles page: look up VINs, and the cached vehicles.
import { Page } from "@/components/page";

export function VehiclesPage() {
  return (
    <Page title="Vehicles">
      <p className="card empty">Nothing is shown yet.</p>
    </Page>
  );
}
