// lamina luks config: label, subsystem, priority of a key slot.

import { type Command, Option } from 'commander';
import { invalid } from '../base/errors.ts';
import { configure, PRIORITIES, type Priority } from '../tools/luks/luks2-config.ts';
import { Luks2Volume } from '../tools/luks/luks2-volume.ts';
import { WrongCall } from './errors.ts';
import { withVolume } from './luks-file.ts';
import { type HeaderFlags, withHeader, withKeySlot } from './luks-options.ts';
import { printDone } from './output.ts';

interface ConfigFlags extends HeaderFlags {
  readonly priority?: Priority;
  readonly keySlot?: number;
  readonly label?: string;
  readonly subsystem?: string;
}

export function addLuksConfig(luks: Command): void {
  const config = luks
    .command('config')
    .summary('label and subsystem of a volume, priority of a key slot; LUKS2')
    .description(
      'Writes label, subsystem, or the priority of a key slot into a LUKS2 header. Preferred slots are\n' +
        'tried first; ignored ones only if they are asked for by number.',
    )
    .argument('<image>', 'the volume, or its header: a file, a device or an NBD URI')
    .addOption(new Option('--priority <which>', 'of the key slot').choices(PRIORITIES))
    .option('--label <text>', "'' takes it away")
    .option('--subsystem <text>', "'' takes it away")
    .action(config_);
  withHeader(withKeySlot(config, 'the one whose priority it is'));
}

async function config_(image: string, flags: ConfigFlags): Promise<void> {
  const { priority, keySlot, label, subsystem } = flags;
  if (priority === undefined && label === undefined && subsystem === undefined) {
    throw new WrongCall('luks config: nothing to do: give --priority, --label or --subsystem');
  }
  if ((priority === undefined) !== (keySlot === undefined)) {
    throw new WrongCall('--priority and --key-slot: give both of them');
  }
  await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
    if (!(volume instanceof Luks2Volume)) {
      throw invalid(`${image}: LUKS1 has no label, no subsystem and no priorities`);
    }
    const isOne = priority !== undefined && keySlot !== undefined;
    const one = isOne ? { slot: keySlot, value: priority } : undefined;
    await configure(volume, { label, subsystem, priority: one });
    printDone(flags, { label, subsystem, keySlot, priority });
  });
}
