import {
  createNode,
  type Plugin,
  type RequestFrame,
  type Router,
  type Runtime,
  type Target,
} from "../../core/index.ts";
import { call, request } from "../suites/index.ts";

export interface RouterUnderTest extends Required<Router>, AsyncDisposable {
  /** The peers in the order in which they would be tried. */
  order(targets: readonly Target[], overrides?: Partial<RequestFrame>, headers?: Record<string, string>): string;
}

/** A router whose node runs on the clock and the randomness of the test. */
export async function routerOn(plugin: Plugin, runtime: Runtime): Promise<RouterUnderTest> {
  const node = await createNode({ plugins: [plugin] }, runtime);
  const { select, explain = () => ({}) } = plugin.router as Router;
  return {
    select,
    explain,
    order(targets, overrides = {}, headers = {}) {
      const from = call({ origin: { kind: "client", via: "test", headers } });
      return [...select(targets, request(overrides), from)].map(({ peer }) => peer).join("");
    },
    [Symbol.asyncDispose]: () => node.close(),
  };
}
