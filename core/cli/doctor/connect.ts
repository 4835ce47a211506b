import { lookup } from "node:dns/promises";
import { connect, isIP } from "node:net";
import type { Checkup } from "./checkup.ts";

/** ms */
const CONNECT_WITHIN = 5_000;

/** Is there a server? What else is wrong with it a start says, in a sentence of its own. `url`: masked. */
export async function checkStore(checkup: Checkup, url: string): Promise<void> {
  if (!URL.canParse(url)) return;
  const { hostname, port, protocol } = new URL(url);
  const usual = protocol.startsWith("redis") ? 6_379 : 5_432;
  if (hostname !== "") await checkTcp(checkup, hostname.replace(/^\[(.*)\]$/, "$1"), Number(port) || usual, "store");
}

/** The name, and then the port: true when something listens there. */
export async function checkTcp({ check }: Checkup, host: string, port: number, layer = "tcp"): Promise<boolean> {
  let address = host;
  if (isIP(host) === 0) {
    const found = await check("dns", host, async () => {
      address = await resolved(host);
      return address;
    });
    if (!found) return false;
  }
  return check(layer, `${host}:${port}`, () => open(address, port));
}

async function resolved(host: string): Promise<string> {
  try {
    return (await lookup(host)).address;
  } catch (cause) {
    const { code = "" } = cause as NodeJS.ErrnoException;
    throw new Error(`The name ${host} leads nowhere (${code}): check its spelling, and this machine's DNS.`, { cause });
  }
}

function open(host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, timeout: CONNECT_WITHIN });
    const fail = (why: string): void => {
      socket.destroy();
      reject(new Error(why));
    };
    socket.once("timeout", () =>
      fail(`Nothing came back within ${CONNECT_WITHIN} ms: a firewall drops it, or the address is wrong.`),
    );
    socket.once("error", ({ code, message }: NodeJS.ErrnoException) => fail(SENTENCES[code ?? ""] ?? `${message}.`));
    socket.once("connect", () => {
      socket.destroy();
      resolve();
    });
  });
}

const SENTENCES: Record<string, string> = {
  ECONNREFUSED: "Nothing listens there: start it, and check the port.",
  EHOSTUNREACH: "There is no way to that host: check the address, and the network between.",
  ENETUNREACH: "There is no way to that network: check the address, and this machine's own network.",
  ECONNRESET: "It was reset at once: something between does not let it through.",
};
