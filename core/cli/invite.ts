import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Guest } from "../../plugins/guards/_guests.ts";
import {
  LONGEST_LABEL,
  makeInvitation,
  readInvitation,
  type Invitation,
  type Role,
} from "../../plugins/guards/_invitation.ts";
import { AimoError } from "../error.ts";
import { isPeerId, KEY_FILE, openIdentity } from "../identity.ts";
import { systemRuntime } from "../runtime.ts";
import { findNode, findSocket, running, type Asked } from "./ask.ts";
import { defaultDataDir } from "./run.ts";
import { duration, printJson, table } from "./table.ts";

export interface InviteFlags extends Asked {
  provide?: boolean;
  call?: boolean;
  /** A peer id. */
  for?: string;
  /** ms */
  expires: number;
  label?: string;
  dataDir?: string;
  list?: boolean;
  /** An id, or the invitation. */
  revoke?: string;
}

export async function invite(flags: InviteFlags): Promise<void> {
  if (flags.list) return list(flags);
  if (flags.revoke !== undefined) return revoke(flags.revoke, flags);
  const { expires, label, json } = flags;
  const peer = flags.for;
  if (peer !== undefined && !isPeerId(peer)) throw wrong(`--for ${peer} is no peer id, 12D3Koo…`);
  if (label !== undefined && label.length > LONGEST_LABEL)
    throw wrong(`a label has at most ${LONGEST_LABEL} characters`);
  const roles: Role[] = [
    ...(flags.provide || !flags.call ? (["provide"] as const) : []),
    ...(flags.call ? (["call"] as const) : []),
  ];
  const until = Math.round(systemRuntime.now() + expires);
  const identity = await identityOf(flags);
  const token = makeInvitation({ roles, peer, until, label }, identity, systemRuntime.randomBytes);
  const { id } = readInvitation(token) as Invitation;
  const issuer = identity.peerId;
  if (json) return printJson({ token, id, issuer, roles, until, for: peer ?? null, label: label ?? null });
  process.stdout.write(`${token}\n`);
  const who = peer === undefined ? "whichever node comes with it first" : peer;
  process.stderr.write(
    `Lets ${who} ${roles.join(" and ")} at ${issuer} for ${duration(expires)}, where that has trust(). Its id: ${id}\n`,
  );
}

/** Of the data dir that is named, of the node that runs, or where `aimo gateway` has it. */
async function identityOf({ dataDir, node }: InviteFlags): Promise<ReturnType<typeof openIdentity>> {
  const folder = dataDir ?? (await folderOf(node)) ?? defaultDataDir("gateway");
  // A key that was made now would be nobody's.
  if (!existsSync(join(folder, KEY_FILE)))
    throw wrong(`there is no node's key in ${folder}: name the data dir of the node that is to let others in`);
  return openIdentity(folder);
}

async function folderOf(node: string | undefined): Promise<string | undefined> {
  const socket = await findSocket(node);
  if (socket === undefined) return undefined;
  const { dataDir } = await running(socket).ask<{ dataDir: string | null }>("/node");
  if (dataDir !== null) return dataDir;
  throw wrong("the node that runs here has no `dataDir`, so that its key ends with it");
}

async function list({ node, json }: InviteFlags): Promise<void> {
  const { data } = await (await findNode(node)).ask<{ data: Guest[] }>("/invites");
  if (json) return printJson({ data });
  if (data.length === 0) return void process.stdout.write("No invitation was redeemed or revoked.\n");
  const now = systemRuntime.now();
  const rows = data.map(({ id, peer, roles, label, until, revoked }) => [
    id,
    peer ?? "-",
    roles.join(", ") || "-",
    revoked ? "revoked" : duration(Math.max(0, until - now)),
    label ?? "-",
  ]);
  process.stdout.write(table(["ID", "PEER", "MAY", "ENDS IN", "LABEL"], rows));
}

async function revoke(which: string, { node, json }: InviteFlags): Promise<void> {
  const { id } = await (await findNode(node)).ask<{ id: string }>("/invites/revoke", { which });
  if (json) return printJson({ id, revoked: true });
  process.stdout.write(`Revoked ${id}: no node is let in by it any more.\n`);
}

function wrong(why: string): AimoError {
  return new AimoError("CONFIG_INVALID", `Cannot make an invitation: ${why}.`);
}
