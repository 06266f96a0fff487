// `GET /usage/budgets`: the credits that a period may use.
import { isRecord } from "@/api/client";
import { toHundredths } from "@/text/credits";

import { useOptional } from "./use-optional";

export interface Budget {
  name: string;
  hundredths: number;
}

export function useBudgets(isWanted: boolean) {
  return useOptional("budgets", { parameters: {}, read: readBudgets, isWanted });
}

function readBudgets({ budgets }: Record<string, unknown>): Budget[] | null {
  return Array.isArray(budgets) ? budgets.flatMap(readBudget) : null;
}

function readBudget(item: unknown): Budget[] {
  if (!isRecord(item) || typeof item.name !== "string") return [];
  const hundredths = toHundredths(item.credits);
  return hundredths === null || hundredths <= 0
    ? []
    : [{ name: item.name, hundredths }];
}
