-- Takes stock where there is enough and appends the event, as one step of Redis.
-- KEYS: the SKU's level, the stream of events; ARGV: the quantity.
local quantity = tonumber(ARGV[1])
if tonumber(redis.call('GET', KEYS[1]) or '0') < quantity then
    return redis.error_reply('not available')
end
local left = redis.call('DECRBY', KEYS[1], quantity)
redis.call('XADD', KEYS[2], '*', 'sku', KEYS[1], 'change', -quantity, 'left', left)
return left
