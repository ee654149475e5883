// The daemon's configuration file: what its options say, checked field by field. Paths in it are relative to the
// folder it is in. An option on the command line wins.

import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { baseFolder, homeFolder } from './paths.ts';
import { loadYamlFile } from './yaml-file.ts';

const Config = z.strictObject({
  listen: z.strictObject({ unix: z.string().optional(), tcp: z.string().optional() }).default({}),
  tls: z
    .strictObject({
      mode: z.enum(['off', 'offer', 'require']).optional(),
      credentials: z.string().optional(),
      psk: z.string().optional(),
      verifyClient: z.boolean().optional(),
    })
    .default({}),
  allowInsecure: z.boolean().optional(),
  maxConnections: z.number().int().min(1).optional(),
  engine: z.enum(['auto', 'uring', 'node']).optional(),
  /** Checked like the option: a size. */
  buffer: z.union([z.string(), z.number().int()], { error: 'expected a size' }).optional(),
  pollUs: z.number().int().min(0).max(1000).optional(),
  grace: z.number().positive().max(3600).optional(),
});

export type DaemonConfig = z.output<typeof Config>;

/** Where the file is unless told otherwise; undefined: there is none. */
export function defaultConfigPath(): string | undefined {
  const base = baseFolder('XDG_CONFIG_HOME') ?? join(homeFolder(), '.config');
  const path = join(base, 'lamina', 'daemon.yaml');
  return existsSync(path) ? path : undefined;
}

/** Throws DmError naming file, line and field. */
export function loadDaemonConfig(path: string): DaemonConfig {
  const config = loadYamlFile(path, Config);
  const folder = dirname(resolve(path));
  const absolute = (name: string | undefined): string | undefined =>
    name === undefined ? undefined : resolve(folder, name);
  return {
    ...config,
    listen: { ...config.listen, unix: absolute(config.listen.unix) },
    tls: {
      ...config.tls,
      credentials: absolute(config.tls.credentials),
      psk: absolute(config.tls.psk),
    },
  };
}
