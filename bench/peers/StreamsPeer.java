// Kafka Streams doing the heart of onhand's job, and a client that drives either of them over the same
// broker. Run without a build: java -cp 'JARS/*' StreamsPeer.java MODE ...
//
//   streams BROKERS THREADS COMMIT_MS STORE DIR   consume a command, check and update a logged store, emit
//                                                 an outcome; exactly_once_v2; until standard input ends
//   topic BROKERS NAME PARTITIONS                 create a topic with one copy
//   load BROKERS TOPIC FORM COUNT SKUS [FIRST]    write that many commands, numbered from FIRST [0]
//   drain BROKERS TOPIC COUNT                     wait until so many committed outcomes are there
//   rate BROKERS IN OUT FORM RATE SECONDS SKUS    commands at that rate, and how long each outcome takes
//
// FORM is `bytes` (96 B, what the Streams program takes) or `json` (what onhand takes in stock.inbox).
// STORE is `memory` or `rocksdb`. Every mode prints one line of JSON on standard output.

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

public final class StreamsPeer {
    static final int COMMAND_BYTES = 96;
    static final int OUTCOME_BYTES = 48;
    static final long OPENING = 1_000_000_000L;

    public static void main(String[] args) throws Exception {
        Locale.setDefault(Locale.ROOT);
        switch (args[0]) {
            case "streams" -> streams(args[1], Integer.parseInt(args[2]), args[3], args[4], args[5]);
            case "topic" -> topic(args[1], args[2], Integer.parseInt(args[3]));
            case "load" -> load(args[1], args[2], Form.of(args[3]), Long.parseLong(args[4]), Integer.parseInt(args[5]),
                    args.length > 6 ? Long.parseLong(args[6]) : 0);
            case "drain" -> drain(args[1], args[2], Long.parseLong(args[3]));
            case "rate" -> rate(args[1], args[2], args[3], Form.of(args[4]), Integer.parseInt(args[5]),
                    Integer.parseInt(args[6]), Integer.parseInt(args[7]));
            default -> throw new IllegalArgumentException("no such mode: " + args[0]);
        }
    }

    /** The job: stock of a key is checked and taken, the store is logged, the outcome says what was left. */
    static final class Take implements Processor<byte[], byte[], byte[], byte[]> {
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], Long> stock;

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            this.stock = context.getStateStore("stock");
        }

        @Override
        public void process(Record<byte[], byte[]> command) {
            ByteBuffer in = ByteBuffer.wrap(command.value());
            long id = in.getLong();
            long quantity = in.getLong();
            Long known = stock.get(command.key());
            long available = known == null ? OPENING : known;
            boolean granted = available >= quantity;
            if (granted) {
                available -= quantity;
                stock.put(command.key(), available);
            }
            ByteBuffer out = ByteBuffer.allocate(OUTCOME_BYTES);
            out.putLong(id).putLong(available).put((byte) (granted ? 1 : 0));
            context.forward(command.withValue(out.array()));
        }
    }

    static void streams(String brokers, int threads, String commitMs, String store, String dir) throws Exception {
        Topology topology = new Topology();
        ProcessorSupplier<byte[], byte[], byte[], byte[]> take = Take::new;
        var supplier = store.equals("memory")
                ? Stores.inMemoryKeyValueStore("stock")
                : Stores.persistentKeyValueStore("stock");
        topology.addSource("in", "peer.commands")
                .addProcessor("take", take, "in")
                .addStateStore(Stores.keyValueStoreBuilder(supplier, Serdes.ByteArray(), Serdes.Long()), "take")
                .addSink("out", "peer.outcomes", "take");
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "peer");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, commitMs);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, threads);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, dir);
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        CountDownLatch running = new CountDownLatch(1);
        try (var app = new KafkaStreams(topology, settings)) {
            app.setStateListener((now, before) -> {
                if (now == KafkaStreams.State.RUNNING) {
                    running.countDown();
                }
            });
            app.start();
            running.await();
            System.out.println("{\"running\":true}");
            System.out.flush();
            while (System.in.read() >= 0) {
                // Only its end means something.
            }
        }
    }

    static void topic(String brokers, String name, int partitions) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            admin.createTopics(List.of(new NewTopic(name, partitions, (short) 1))).all().get();
        }
        System.out.println("{\"topic\":\"" + name + "\"}");
    }

    /** How a command is spelt, and where an outcome says whose it is. */
    enum Form {
        BYTES, JSON;

        private static final byte[] ID = "\"id\":\"".getBytes(StandardCharsets.UTF_8);

        static Form of(String name) {
            return valueOf(name.toUpperCase(Locale.ROOT));
        }

        static String sku(long number, int skus) {
            // Spread as a shop's: the next command is of another SKU.
            return String.format("SKU-%06d", number * 7_919 % skus);
        }

        byte[] command(long number, int skus) {
            if (this == BYTES) {
                ByteBuffer out = ByteBuffer.allocate(COMMAND_BYTES);
                out.putLong(number).putLong(1);
                return out.array();
            }
            return ("{\"id\":\"" + number + "\",\"source\":\"bench\",\"type\":\"ship\",\"sku\":\"" + sku(number, skus)
                    + "\",\"location\":\"main\",\"quantity\":1}").getBytes(StandardCharsets.UTF_8);
        }

        /** Where the outcome behind the one at that place begins: JSON may come as many lines in one record. */
        int next(byte[] outcomes, int at) {
            int end = this == BYTES ? outcomes.length : at;
            while (end < outcomes.length && outcomes[end] != '\n') {
                end++;
            }
            return end + 1;
        }

        long number(byte[] outcome, int from) {
            if (this == BYTES) {
                return ByteBuffer.wrap(outcome).getLong();
            }
            int at = from;
            search:
            for (; at <= outcome.length - ID.length; at++) {
                for (int i = 0; i < ID.length; i++) {
                    if (outcome[at + i] != ID[i]) {
                        continue search;
                    }
                }
                break;
            }
            long number = 0;
            for (int i = at + ID.length; i < outcome.length && outcome[i] >= '0' && outcome[i] <= '9'; i++) {
                number = number * 10 + outcome[i] - '0';
            }
            return number;
        }
    }

    static KafkaProducer<byte[], byte[]> producer(String brokers) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", brokers);
        settings.put("acks", "all");
        // Kafka's default. With 0 its requests take more of two processors than who is measured.
        settings.put("linger.ms", 5);
        settings.put("batch.size", 128 << 10);
        settings.put("buffer.memory", 64 << 20);
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static KafkaConsumer<byte[], byte[]> consumer(String brokers, String topic, boolean fromEnd) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", brokers);
        settings.put("isolation.level", "read_committed");
        settings.put("enable.auto.commit", false);
        settings.put("max.poll.records", 10_000);
        var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        List<TopicPartition> all = consumer.partitionsFor(topic).stream()
                .map(one -> new TopicPartition(topic, one.partition()))
                .toList();
        consumer.assign(all);
        if (fromEnd) {
            consumer.seekToEnd(all);
        } else {
            consumer.seekToBeginning(all);
        }
        all.forEach(consumer::position);
        return consumer;
    }

    static void load(String brokers, String topic, Form form, long count, int skus, long first) {
        long began = System.nanoTime();
        AtomicLong failed = new AtomicLong();
        try (var producer = producer(brokers)) {
            for (long number = first; number < first + count; number++) {
                byte[] key = Form.sku(number, skus).getBytes(StandardCharsets.UTF_8);
                producer.send(new ProducerRecord<>(topic, key, form.command(number, skus)), (at, error) -> {
                    if (error != null) {
                        failed.incrementAndGet();
                    }
                });
            }
            producer.flush();
        }
        double seconds = (System.nanoTime() - began) / 1e9;
        System.out.printf("{\"loaded\":%d,\"failed\":%d,\"seconds\":%.3f}%n", count, failed.get(), seconds);
    }

    static void drain(String brokers, String topic, long count) {
        long seen = 0;
        long last = System.nanoTime();
        try (var consumer = consumer(brokers, topic, false)) {
            while (seen < count && System.nanoTime() - last < 60_000_000_000L) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(20))) {
                    last = System.nanoTime();
                    seen += outcomes(record.value());
                }
            }
        }
        System.out.printf("{\"seen\":%d,\"at_ms\":%d}%n", seen, System.currentTimeMillis());
    }

    /** JSON may come as many lines in one record. */
    static int outcomes(byte[] value) {
        int lines = 1;
        if (value[0] == '{') {
            for (byte one : value) {
                lines += one == '\n' ? 1 : 0;
            }
        }
        return lines;
    }

    static void rate(String brokers, String in, String out, Form form, int rate, int seconds, int skus)
            throws Exception {
        int count = rate * seconds;
        // The first half warms both sides up and is not judged: Java translates what is hot meanwhile, in
        // the broker and here as well.
        int judged = count / 2;
        long[] sent = new long[count];
        long[] took = new long[count];
        Arrays.fill(took, -1);
        AtomicLong open = new AtomicLong(count);
        try (var consumer = consumer(brokers, out, true); var producer = producer(brokers)) {
            Thread reader = new Thread(() -> {
                long quiet = System.nanoTime();
                while (open.get() > 0 && System.nanoTime() - quiet < 30_000_000_000L) {
                    for (ConsumerRecord<byte[], byte[]> outcome : consumer.poll(Duration.ofMillis(10))) {
                        long now = System.nanoTime();
                        for (int at = 0; at < outcome.value().length; at = form.next(outcome.value(), at)) {
                            int number = (int) (form.number(outcome.value(), at) - BASE);
                            if (number >= 0 && number < count && took[number] < 0) {
                                took[number] = now - sent[number];
                                open.decrementAndGet();
                            }
                        }
                        quiet = now;
                    }
                }
            });
            reader.start();
            long began = System.nanoTime();
            for (int number = 0; number < count; number++) {
                long due = began + number * 1_000_000_000L / rate;
                while (System.nanoTime() < due) {
                    // Sleeping is exact to some 60 us, spinning would take a core from who is measured.
                    Thread.sleep(0, 200_000);
                }
                byte[] key = Form.sku(number, skus).getBytes(StandardCharsets.UTF_8);
                // From when it was due: who falls behind does not hide it.
                sent[number] = due;
                producer.send(new ProducerRecord<>(in, key, form.command(BASE + number, skus)));
            }
            producer.flush();
            reader.join();
        }
        long[] times = Arrays.stream(took, judged, count).filter(one -> one >= 0).sorted().toArray();
        long missing = count - judged - times.length;
        System.out.printf("{\"count\":%d,\"missing\":%d,\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"max_ms\":%.2f}%n",
                times.length, missing, at(times, 500), at(times, 990), at(times, 1000));
    }

    /** Numbers of `rate` begin here, so that they meet none that `load` wrote. */
    static final long BASE = 1_000_000_000L;

    static double at(long[] ascending, int perMille) {
        if (ascending.length == 0) {
            return Double.NaN;
        }
        int rank = Math.max((ascending.length * perMille + 999) / 1000, 1);
        return ascending[rank - 1] / 1e6;
    }
}
