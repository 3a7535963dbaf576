#ifndef SERVER_ADD_MODEL_H
#define SERVER_ADD_MODEL_H

#include "server/config.h"

/* Takes config->add_model, a model file, into the repository as a candidate
 * that nobody measured. One that is known stays as it is, but its file comes
 * where it is missing. Its version is given.
 * A server that runs on the same store knows it at once. Errors: those of
 * mdl_model_open and of the store, UT_EIO. */
UT_MUSTUSE enum ut_err srv_add_model(const struct srv_config *config,
                                     char version[17], struct ut_error *e);

#endif
