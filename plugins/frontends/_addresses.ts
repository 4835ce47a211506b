import type { IncomingMessage } from "node:http";
import { BlockList, isIP } from "node:net";

/** An address, or a network such as `10.0.0.0/8`. */
export function isNetwork(text: string): boolean {
  const [, address = "", prefix = "0"] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  return Number(prefix) <= { 0: -1, 4: 32, 6: 128 }[isIP(address) as 0 | 4 | 6];
}

/** Whether an address is one of these addresses and networks. */
export function createNetworks(list: readonly string[]): (address: string) => boolean {
  const networks = new BlockList();
  for (const entry of list) {
    const [address = "", prefix] = entry.split("/");
    if (prefix === undefined) networks.addAddress(address, familyOf(address));
    else networks.addSubnet(address, Number(prefix), familyOf(address));
  }
  return (address) => list.length > 0 && isIP(address) !== 0 && networks.check(address, familyOf(address));
}

function familyOf(address: string): "ipv4" | "ipv6" {
  return address.includes(":") ? "ipv6" : "ipv4";
}

/** An IPv4 address that came over an IPv6 socket is one, too. */
export function plainAddress(address: string): string {
  return /^::ffff:[\d.]+$/i.test(address) ? address.slice(7) : address;
}

/**
 * Whose request it is: who is connected or, where that is a proxy that is trusted, the nearest in `X-Forwarded-For` that
 * is none. Entries may have ports; from one that is no address on nothing is believed.
 */
export function clientOf(req: IncomingMessage, trusted: (address: string) => boolean): string | undefined {
  const connected = req.socket.remoteAddress;
  if (connected === undefined) return undefined;
  let client = plainAddress(connected);
  const told = req.headers["x-forwarded-for"];
  if (told === undefined || !trusted(client)) return client;
  for (const entry of String(told).split(",").toReversed()) {
    const address = plainAddress(withoutPort(entry.trim()));
    if (isIP(address) === 0) return client;
    client = address;
    if (!trusted(client)) return client;
  }
  return client;
}

function withoutPort(entry: string): string {
  const [, v6, v4] = /^(?:\[([^\]]*)\](?::\d+)?|([\d.]+):\d+)$/.exec(entry) ?? [];
  return v6 ?? v4 ?? entry;
}

/** What one client has to itself: an IPv4 address, or 64 bits of an IPv6 address. */
export function networkOf(address: string): string {
  if (!address.includes(":")) return address;
  const [before = "", after] = (address.split("%")[0] as string).split("::");
  const front = before.split(":").filter(Boolean);
  const back = after?.split(":").filter(Boolean) ?? [];
  const gap = Array.from({ length: Math.max(0, 8 - front.length - back.length) }, () => "0");
  const groups = [...front, ...gap, ...back].slice(0, 4);
  return groups.map((group) => Number.parseInt(group, 16).toString(16)).join(":");
}
