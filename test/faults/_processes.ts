import { resolve } from "node:path";
import { startRole, type Role } from "../bench/_process.ts";
import type { NodeReady, NodeStart } from "./_roles/node.ts";

/** Processes of `_roles` that end with the section, the first one last. */
export interface Processes extends AsyncDisposable {
  /** `within`: what its command is to begin with. */
  start(name: string, within?: readonly string[]): Promise<Role>;
  /** One with these nodes. */
  nodes(wanted: readonly NodeStart[], within?: readonly string[]): Promise<{ role: Role; ready: NodeReady[] }>;
}

export function createProcesses(): Processes {
  const roles: Role[] = [];
  const start: Processes["start"] = async (name, within) => {
    const role = await startRole(name, resolve(import.meta.dirname, "_roles", `${name}.ts`), within);
    roles.push(role);
    return role;
  };
  return {
    start,
    async nodes(wanted, within) {
      const role = await start("node", within);
      return { role, ready: await role.ask<NodeReady[]>("start", { nodes: wanted }) };
    },
    async [Symbol.asyncDispose]() {
      const [first, ...others] = roles;
      await Promise.all(others.map((role) => role.stop()));
      await first?.stop();
    },
  };
}
