<?php
// Lines of base64 in, each a serialized value: what PHP makes of them, serialized again, comes out. A value that PHP
// does not take is answered with an empty line.
while (($line = fgets(STDIN)) !== false) {
    $serialized = base64_decode(trim($line));
    $value = @unserialize($serialized, ['allowed_classes' => false]);
    $understood = $value !== false || $serialized === serialize(false);
    echo $understood ? base64_encode(serialize($value)) : '', "\n";
}
