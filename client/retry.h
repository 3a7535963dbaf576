#ifndef CLIENT_RETRY_H
#define CLIENT_RETRY_H

#include <stdint.h>

#define CL_FIRST_WAIT_MS 100
#define CL_MOST_WAIT_MS 60000 /* of our own, and of the server's */

/* How long to wait before trying again what was refused for overload, in ms:
 * what the server asked for (Retry-After; 0: nothing), and a wait that doubles
 * with each of the tries before and of which half is left to chance, so that
 * clients refused together do not come back together. random: any number. */
int64_t cl_retry_wait_ms(int tries, int retry_after_s, uint32_t random);

#endif
