-- A movement of stock as shops write it today: the level and its history in one transaction. The four
-- statements travel together (pipeline), so a transaction costs one round trip and a hot row stays locked for
-- the commit alone; a client that waits for each statement's answer gets less. :skus is 1 for the hot row.
\set command random(1, 9000000000000000000)
\set sku random(1, :skus)
\set change random(1, 9) * (1 - 2 * random(0, 1))
\startpipeline
BEGIN;
UPDATE stock SET quantity = quantity + :change WHERE sku = :sku;
INSERT INTO movement (command, sku, change, reason) VALUES (:command, :sku, :change, 'bench');
COMMIT;
\endpipeline
