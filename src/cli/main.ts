// The entry of bin/lamina.

import { runCall } from './run.ts';

await runCall();
