import { resolve } from "node:path";
import { startRole, type Role } from "../bench/_process.ts";
import type { GatewayReady, GatewayStart } from "./_roles/gateway.ts";
import type { ProviderStart } from "./_roles/provider.ts";

/** Processes that end with the section. */
export interface Nodes extends AsyncDisposable {
  readonly gateway: Role;
  readonly api: string;
  /** Where providers join. */
  readonly join: string;
  /** The gateway's port for peers. */
  readonly port: number;
  /** Another process, of `_roles/<name>.ts`. */
  start(name: string): Promise<Role>;
  /** A process with a node for each model, joined and listed; by default each dials the gateway itself. */
  provider(models: readonly string[], via?: readonly string[]): Promise<Role>;
}

export async function startNodes(options: GatewayStart = {}): Promise<Nodes> {
  const roles: Role[] = [];
  const start = async (name: string): Promise<Role> => {
    const role = await startRole(name, resolve(import.meta.dirname, "_roles", `${name}.ts`));
    roles.push(role);
    return role;
  };
  const end = async (): Promise<void> => {
    const [gateway, ...others] = roles;
    await Promise.all(others.map((role) => role.stop()));
    await gateway?.stop();
  };
  try {
    const gateway = await start("gateway");
    const ready = await gateway.ask<GatewayReady>("start", options);
    const join = ready.join[0] as string;
    return {
      gateway,
      api: ready.api,
      join,
      port: ready.port,
      start,
      async provider(models, via = []) {
        const role = await start("provider");
        const nodes = models.map((model, at) => ({ model, join: via[at] ?? join }));
        await role.ask("start", { nodes } satisfies ProviderStart);
        await gateway.ask("listed", { models });
        return role;
      },
      [Symbol.asyncDispose]: end,
    };
  } catch (error) {
    await end();
    throw error;
  }
}
