import type { Stream } from "@libp2p/interface";
import { yamux } from "@libp2p/yamux";

/**
 * yamux that is silent on a connection which has closed. It greets a new stream in a microtask of its own: when the
 * frame behind the one that asked for the stream ended the connection, what `send` throws there would end the process.
 * Its streams hear of the end by the connection's `close`.
 */
export function muxer(options: Parameters<typeof yamux>[0]): ReturnType<typeof yamux> {
  const make = yamux(options);
  return () => {
    const factory = make();
    const create = factory.createStreamMuxer.bind(factory);
    factory.createStreamMuxer = (connection) => {
      const send = connection.send.bind(connection);
      // The interface of a connection leaves `writeStatus` out.
      connection.send = (data) => (connection as Stream).writeStatus === "writable" && send(data);
      return create(connection);
    };
    return factory;
  };
}
