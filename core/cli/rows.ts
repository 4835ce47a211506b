import type { Page } from "../../plugins/observers/_ledger-query.ts";
import type { Running } from "./ask.ts";

/** What the node is asked for, by the names of its query. */
export type Wanted = Readonly<Record<string, string>>;

export function query(wanted: Wanted): string {
  return new URLSearchParams(wanted).toString();
}

/** Page by page: there may be more rows than fit into memory. */
export async function* pagesOf(running: Running, wanted: Wanted): AsyncGenerator<Page, void, undefined> {
  let page = await running.ask<Page>(`/usage/rows?${query(wanted)}`);
  // Later pages are of the same time, though `7d` ago moves.
  const range = { ...wanted, since: String(page.since), until: String(page.until) };
  for (;;) {
    yield page;
    if (page.next === null) return;
    page = await running.ask<Page>(`/usage/rows?${query({ ...range, after: page.next })}`);
  }
}
