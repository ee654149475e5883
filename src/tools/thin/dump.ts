// A thin pool's metadata as text: the XML of thin_dump (thin-provisioning-tools 0.9.0), to the byte, or the
// same as JSON. Text comes in pieces, so that the size of the metadata does not matter.

import type { MappingRun, PoolDevice, PoolReader } from './pool-reader.ts';

export const DUMP_FORMATS = ['xml', 'json'] as const;
export type DumpFormat = (typeof DUMP_FORMATS)[number];

interface Writer {
  begin(pool: PoolReader): string;
  beginDevice(device: PoolDevice, isFirst: boolean): string;
  run(run: MappingRun, isFirst: boolean): string;
  endDevice(): string;
  end(): string;
}

export async function* dumpPool(pool: PoolReader, format: DumpFormat): AsyncGenerator<string> {
  const writer = WRITERS[format];
  // Read before anything is printed: it may be refused.
  const devices = await pool.devices();
  yield writer.begin(pool);
  for (const [i, device] of devices.entries()) {
    yield writer.beginDevice(device, i === 0);
    let isFirst = true;
    for await (const runs of pool.runs(device.root)) {
      let text = '';
      for (const run of runs) {
        text += writer.run(run, isFirst);
        isFirst = false;
      }
      yield text;
    }
    yield writer.endDevice();
  }
  yield writer.end();
}

const XML: Writer = {
  begin({ superblock }) {
    const { fields, dataMap } = superblock;
    // thin_dump does not print the uuid, which no pool uses.
    return (
      `<superblock uuid="" time="${fields.time}" transaction="${fields.transactionId}" ` +
      `flags="${fields.flags}" version="${fields.version}" ` +
      `data_block_size="${fields.dataBlockSize}" nr_data_blocks="${dataMap.nrBlocks}">\n`
    );
  },
  beginDevice({ id, details }) {
    return (
      `  <device dev_id="${id}" mapped_blocks="${details.mappedBlocks}" ` +
      `transaction="${details.transactionId}" creation_time="${details.creationTime}" ` +
      `snap_time="${details.snapshottedTime}">\n`
    );
  },
  run({ originBegin, dataBegin, length, time }) {
    if (length === 1) {
      return (
        `    <single_mapping origin_block="${originBegin}" data_block="${dataBegin}" ` +
        `time="${time}"/>\n`
      );
    }
    return (
      `    <range_mapping origin_begin="${originBegin}" data_begin="${dataBegin}" ` +
      `length="${length}" time="${time}"/>\n`
    );
  },
  endDevice: () => '  </device>\n',
  end: () => '</superblock>\n',
};

const JSON_TEXT: Writer = {
  begin({ superblock }) {
    const { fields, dataMap } = superblock;
    const values = {
      time: fields.time,
      transaction: fields.transactionId,
      flags: fields.flags,
      version: fields.version,
      data_block_size: fields.dataBlockSize,
      nr_data_blocks: dataMap.nrBlocks,
    };
    return `${JSON.stringify(values).slice(0, -1)},"devices":[`;
  },
  beginDevice({ id, details }, isFirst) {
    const values = {
      dev_id: id,
      mapped_blocks: details.mappedBlocks,
      transaction: details.transactionId,
      creation_time: details.creationTime,
      snap_time: details.snapshottedTime,
    };
    return `${isFirst ? '' : ','}\n${JSON.stringify(values).slice(0, -1)},"mappings":[`;
  },
  run({ originBegin, dataBegin, length, time }, isFirst) {
    const values = { origin_begin: originBegin, data_begin: dataBegin, length, time };
    return `${isFirst ? '' : ','}\n${JSON.stringify(values)}`;
  },
  endDevice: () => ']}',
  end: () => ']}\n',
};

const WRITERS: Readonly<Record<DumpFormat, Writer>> = { xml: XML, json: JSON_TEXT };
