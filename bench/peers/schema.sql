-- Fresh tables for each sample. They serve what onhand serves: a level by SKU, a history by SKU, and a
-- movement by the id that its sender gave, which also refuses the same command a second time.
DROP TABLE IF EXISTS stock, movement, reservation, reservation_line;

CREATE TABLE stock (
    sku integer PRIMARY KEY,
    quantity bigint NOT NULL
) WITH (fillfactor = 50); -- room for new versions of a row on its own page: updates touch no index

CREATE TABLE movement (
    command bigint PRIMARY KEY,
    sku integer NOT NULL,
    change integer NOT NULL,
    reason text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON movement (sku, recorded_at);

CREATE TABLE reservation (
    command bigint PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE TABLE reservation_line (
    command bigint NOT NULL,
    sku integer NOT NULL,
    quantity integer NOT NULL,
    PRIMARY KEY (command, sku)
);

-- One round trip for the whole decision. Rows are taken in the order of their SKUs, so that two
-- reservations never wait for each other in a circle.
CREATE OR REPLACE FUNCTION reserve(command bigint, one integer, other integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE stock SET quantity = quantity - 1 WHERE sku = least(one, other) AND quantity >= 1;
    IF NOT FOUND THEN RAISE EXCEPTION 'SKU % is not available', least(one, other); END IF;
    UPDATE stock SET quantity = quantity - 1 WHERE sku = greatest(one, other) AND quantity >= 1;
    IF NOT FOUND THEN RAISE EXCEPTION 'SKU % is not available', greatest(one, other); END IF;
    INSERT INTO reservation VALUES (command, now() + interval '60 seconds');
    INSERT INTO reservation_line VALUES (command, one, 1), (command, other, 1);
END
$$;

INSERT INTO stock SELECT sku, 1000000000 FROM generate_series(1, 10000) AS sku;
VACUUM ANALYZE;
CHECKPOINT;
