/** Imported before the lab, which takes the network away. */
import { grpc } from '../support/caches.ts'

/** Directory with `node_modules/@grpc/grpc-js`, or the reason why there is none. */
export const grpcPackage = grpc()
